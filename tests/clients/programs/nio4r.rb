require_relative 'client'
require 'nio'
file = device
selector = NIO::Selector.new
selector.register(file, :r)
loop { selector.select { |_| woken(file) } }
