use FindBin; require "$FindBin::Bin/client.pl";
use IO::Poll qw(POLLIN POLLERR POLLHUP);
my $file = device();
my $poll = IO::Poll->new;
$poll->mask($file => POLLIN);
while (1) {
    next unless $poll->poll > 0;
    my $events = $poll->events($file);
    woken($file, $events & (POLLERR | POLLHUP) ? "revents $events," : undef);
}
