require_relative 'client'
require 'io/wait'
file = device
loop { woken(file) if file.wait_readable }
