require_relative 'client'
require 'eventmachine'
EM.epoll if ARGV[2]
FILE = device
handler = Module.new { def notify_readable = woken(FILE) }
EM.run { EM.watch(FILE, handler).notify_readable = true }
