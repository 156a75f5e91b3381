<?php
$device = fopen($argv[1], 'rn');
stream_set_blocking($device, false);
stream_set_read_buffer($device, 0);
echo "ready\n";
while (true) {
    $read = [$device];
    $none = null;
    if (!@stream_select($read, $none, $none, null)) continue;
    if ($argv[2] === 'poll') { echo "woken\n"; continue; }
    $text = @fread($device, 4096);
    if ($text) echo "told $text";
    elseif ($text === '' && !feof($device)) echo "empty\n";
    else { echo 'end ', feof($device) ? 'feof' : '', ' ', error_get_last()['message'] ?? '', "\n"; exit; }
}
