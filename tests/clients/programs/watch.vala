// IOChannel of GLib, in Vala.
void say(string text) {
    stdout.puts(text);
    stdout.flush();
}

int main(string[] arguments) {
    int fd = Posix.open(arguments[1], Posix.O_RDONLY | Posix.O_NONBLOCK);
    say("ready\n");
    var channel = new IOChannel.unix_new(fd);
    channel.add_watch(IOCondition.IN | IOCondition.ERR | IOCondition.HUP, (source, condition) => {
        bool over = (condition & (IOCondition.ERR | IOCondition.HUP)) != 0;
        if (arguments[2] == "poll" && !over) {
            say("woken\n");
            return true;
        }
        var text = new uint8[4096];
        ssize_t got = Posix.read(fd, text, 4095);
        if (got > 0) {
            say("told " + (string) text);
        } else if (Posix.errno == Posix.EAGAIN && !over) {
            say("empty\n");
        } else {
            say("end condition %d, %s\n".printf((int) condition, Posix.strerror(Posix.errno)));
            Posix.exit(0);
        }
        return true;
    });
    new MainLoop().run();
    return 0;
}
