use FindBin; require "$FindBin::Bin/client.pl";
use Mojo::Reactor::Poll;
my $file = device();
my $reactor = Mojo::Reactor::Poll->new;
$reactor->io($file => sub { woken($file) })->watch($file, 1, 0);
$reactor->start;
