# SPDX-License-Identifier: Apache-2.0
# bash completion for xe(1).  The server is asked: it knows its commands, their parameters and its objects.

_xe() {
	local line=${COMP_LINE:0:COMP_POINT} word breaks i
	line=${line#"${line%%[![:blank:]]*}"}	# blanks in front
	line=${line#* }				# xe itself, as it was called
	word=${line##* }
	mapfile -t COMPREPLY < <("${COMP_WORDS[0]}" complete line="$line" 2>/dev/null)
	# Readline replaces what stands behind the last of its word breaks, = and : among them.
	breaks=${word%"${word##*[=:]}"}
	for i in "${!COMPREPLY[@]}"; do
		printf -v "COMPREPLY[i]" %q "${COMPREPLY[i]#"$breaks"}"
	done
	[[ ${#COMPREPLY[@]} -ne 1 || ${COMPREPLY[0]} != *[=:] ]] || compopt -o nospace 2>/dev/null
}

complete -o default -F _xe xe
