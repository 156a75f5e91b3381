-- luaposix.
local poll, fcntl, unistd = require 'posix.poll', require 'posix.fcntl', require 'posix.unistd'
io.stdout:setvbuf 'line'
local fd = assert(fcntl.open(arg[1], fcntl.O_RDONLY + fcntl.O_NONBLOCK))
print 'ready'
local fds = { [fd] = { events = { IN = true } } }
while true do
  if (poll.poll(fds, -1) or 0) > 0 then
    local said = fds[fd].revents
    if arg[2] == 'poll' and not (said.ERR or said.HUP) then print 'woken' goto again end
    local text, message, code = unistd.read(fd, 4096)
    if text and #text > 0 then io.write('told ', text)
    elseif code == 11 and not (said.ERR or said.HUP) then print 'empty'
    else
      print('end ' .. (said.ERR and 'POLLERR ' or '') .. (said.HUP and 'POLLHUP ' or '') .. (message or 'end of file'))
      os.exit(0)
    end
  end
  ::again::
end
