# A blocked read in IO#gets.
require_relative 'client'
begin
  File.open(PATH) do |file|
    puts 'ready'
    while (line = file.gets)
      puts "told #{line}"
    end
    puts 'end end of file'
  end
rescue SystemCallError => e
  puts "end #{e.class}"
end
