local uv, fcntl, unistd = require 'luv', require 'posix.fcntl', require 'posix.unistd'
io.stdout:setvbuf 'line'
local fd = assert(fcntl.open(arg[1], fcntl.O_RDONLY + fcntl.O_NONBLOCK))
print 'ready'
uv.new_poll(fd):start('r', function(failed)
  if failed then print('end uv_poll ' .. failed) os.exit(0) end
  if arg[2] == 'poll' then print 'woken' return end
  local text, message, code = unistd.read(fd, 4096)
  if text and #text > 0 then io.write('told ', text)
  elseif code == 11 then print 'empty'
  else print('end ' .. (message or 'end of file')) os.exit(0) end
end)
uv.run()
