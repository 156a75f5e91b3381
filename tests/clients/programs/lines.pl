$| = 1;
open(my $file, '<', $ARGV[0]) or die "$ARGV[0]: $!";
print "ready\n";
while (1) {
    $! = 0;
    my $line = <$file>;
    my $failed = "$!";
    if (!defined $line) { print 'end ', $failed || 'end of file', "\n"; exit }
    print "told $line";
}
