# The gem async, with its scheduler of fibers.
require_relative 'client'
require 'async'
file = device
Async { loop { woken(file) if file.wait_readable } }
