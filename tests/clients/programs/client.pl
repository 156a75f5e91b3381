# What the programs in Perl share. tests/clients/__init__.py says what they print.
use strict;
use warnings;
use Errno qw(EAGAIN);
use Fcntl;

$| = 1;
our ($path, $mode) = @ARGV;

sub device {
    sysopen(my $file, $path, O_RDONLY | O_NONBLOCK) or die "$path: $!";
    print "ready\n";
    return $file;
}

sub woken {
    my ($file, $over) = @_;
    if ($mode eq 'poll' && !$over) { print "woken\n"; return }
    my $got = sysread($file, my $text, 4096);
    if ($got) { print "told $text" }
    elsif (!defined $got && $! == EAGAIN && !$over) { print "empty\n" }
    else { print 'end ', $over // '', ' ', defined $got ? 'end of file' : "$!", "\n"; exit }
}
1;
