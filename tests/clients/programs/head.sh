# Opens the device anew for each record. The head of coreutils also complains: see the list.
echo ready
while line=$(head -n1 "$1" 2>/dev/null) && [ -n "$line" ]; do
	echo "told $line"
done
echo "end $(head -n1 "$1" 2>&1)"
