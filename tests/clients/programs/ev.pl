use FindBin; require "$FindBin::Bin/client.pl";
use EV;
my $file = device();
my $watcher = EV::io $file, EV::READ, sub { woken($file) };
EV::run;
