# AnyEvent, with its own loop in Perl or the one that a third argument names.
BEGIN { $ENV{PERL_ANYEVENT_MODEL} = $ARGV[2] // 'Perl' }
use FindBin; require "$FindBin::Bin/client.pl";
use AnyEvent;
my $file = device();
my $watcher = AnyEvent->io(fh => $file, poll => 'r', cb => sub { woken($file) });
AnyEvent->condvar->recv;
