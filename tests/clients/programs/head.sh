# Opens the device anew for each record.
echo ready
while line=$(head -n1 "$1" 2>&1); do
	case $line in
	node=*) echo "told $line" ;;
	*) break ;;
	esac
done
echo "end $line"
