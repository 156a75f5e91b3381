# The builtin read, of whatever shell runs this.
exec 3<"$1" || exit 2
echo ready
while read -r line <&3; do
	echo "told $line"
done
echo "end read failed"
