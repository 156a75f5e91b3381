io.stdout:setvbuf 'line'
local device = assert(io.open(arg[1]))
print 'ready'
local fine, message = pcall(function() for line in device:lines() do print('told ' .. line) end end)
print('end ' .. (fine and 'end of file' or message:gsub('^.*: ', '')))
