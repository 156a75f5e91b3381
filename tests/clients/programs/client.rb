# What the programs in Ruby share. tests/clients/__init__.py says what they print.
$stdout.sync = true
PATH, MODE = ARGV

def device
  file = File.open(PATH, File::RDONLY | File::NONBLOCK)
  puts 'ready'
  file
end

def woken(file)
  return puts 'woken' if MODE == 'poll'

  puts "told #{file.read_nonblock(4096)}"
rescue IO::WaitReadable
  puts 'empty'
rescue SystemCallError, EOFError => e
  puts "end #{e.class}"
  exit!
end
