# The selectors of Nim.
import std/[os, posix, selectors, strutils]

let fd = posix.open(paramStr(1).cstring, O_RDONLY or O_NONBLOCK)
proc say(said: string) = (echo said; flushFile stdout)
say "ready"
let selector = newSelector[int]()
selector.registerHandle(fd.int, {Event.Read}, 0)
var text: array[4096, char]
while true:
  for key in selector.select(-1):
    let over = Event.Error in key.events
    if paramStr(2) == "poll" and not over:
      say "woken"
      continue
    let got = posix.read(fd, addr text, text.len)
    if got > 0: say "told " & join(text[0 ..< got - 1])
    elif errno == EAGAIN and not over: say "empty"
    else: (say "end " & $key.events & " " & $strerror(errno); quit 0)
