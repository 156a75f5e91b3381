require_relative 'client'
file = device
loop { woken(file) if IO.select([file]) }
