# zselect of zsh.
zmodload zsh/zselect zsh/system
exec 3<$1
print ready
while zselect -r 3; do
	if [[ $2 == poll ]]; then
		print woken
	elif sysread -i 3 text; then
		print -rn -- "told $text"
	else
		print "end sysread $ERRNO"
		exit
	fi
done
