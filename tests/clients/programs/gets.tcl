fconfigure stdout -buffering line
set device [open [lindex $argv 0]]
puts ready
if {[catch {while {[gets $device line] >= 0} { puts "told $line" }} failed]} { puts "end $failed" } else { puts "end end of file" }
