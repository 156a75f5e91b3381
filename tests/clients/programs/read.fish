echo ready
while read -l line
    echo "told $line"
end <$argv[1]
echo "end read failed"
