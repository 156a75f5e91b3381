<?php
$device = fopen($argv[1], 'r');
echo "ready\n";
while (($line = @fgets($device)) !== false) echo "told $line";
echo 'end ', error_get_last()['message'] ?? (feof($device) ? 'feof' : ''), "\n";
