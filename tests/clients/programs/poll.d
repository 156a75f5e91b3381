// core.sys.posix.poll.
module watch;

import core.stdc.errno : errno, EAGAIN;
import core.sys.posix.fcntl : O_NONBLOCK, O_RDONLY, open;
import core.sys.posix.poll;
import core.sys.posix.unistd : read;
import std.stdio;
import std.string : toStringz, strip;

void main(string[] arguments)
{
    auto device = pollfd(open(arguments[1].toStringz, O_RDONLY | O_NONBLOCK), POLLIN);
    char[4096] text;
    void say(string said) { writeln(said); stdout.flush(); }
    say("ready");
    while (poll(&device, 1, -1) > 0)
    {
        const over = device.revents & ~POLLIN;
        if (arguments[2] == "poll" && !over) { say("woken"); continue; }
        const got = read(device.fd, text.ptr, text.length);
        if (got > 0) say("told " ~ text[0 .. got].strip.idup);
        else if (errno == EAGAIN && !over) say("empty");
        else { writefln("end revents %#x, errno %d", device.revents, errno); return; }
    }
}
