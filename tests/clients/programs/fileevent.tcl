fconfigure stdout -buffering line
set device [open [lindex $argv 0] {RDONLY NONBLOCK}]
fconfigure $device -blocking 0
puts ready
proc readable {} {
    global device argv
    if {[lindex $argv 1] eq "poll"} { puts woken; return }
    if {[catch {gets $device line} got]} { puts "end $got"; exit }
    if {$got >= 0} { puts "told $line" } elseif {[eof $device]} { puts "end end of file"; exit } else { puts empty }
}
fileevent $device readable readable
vwait forever
