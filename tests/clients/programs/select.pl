use FindBin; require "$FindBin::Bin/client.pl";
use IO::Select;
my $file = device();
my $select = IO::Select->new($file);
while (1) { woken($file) if $select->can_read }
