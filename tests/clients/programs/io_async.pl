use FindBin; require "$FindBin::Bin/client.pl";
use IO::Async::Loop;
my $file = device();
my $loop = IO::Async::Loop->new;
$loop->watch_io(handle => $file, on_read_ready => sub { woken($file) });
$loop->run;
