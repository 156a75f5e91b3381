use FindBin; require "$FindBin::Bin/client.pl";
use POE;
my $file = device();
POE::Session->create(inline_states => {
    _start => sub { $_[KERNEL]->select_read($file, 'readable') },
    readable => sub { woken($file) },
});
POE::Kernel->run;
