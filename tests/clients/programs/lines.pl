$| = 1;
open(my $file, '<', $ARGV[0]) or die "$ARGV[0]: $!";
print "ready\n";
print "told $_" while <$file>;
print 'end ', $file->error ? "$!" : 'end of file', "\n";
