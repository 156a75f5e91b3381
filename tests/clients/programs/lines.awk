# getline of awk.
BEGIN {
	path = ARGV[1]
	print "ready"; fflush()
	while ((got = (getline line < path)) > 0) { print "told " line; fflush() }
	print "end getline " got
}
