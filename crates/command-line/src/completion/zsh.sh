#compdef PROGRAM
compdef _PROGRAM PROGRAM

# zsh completion for PROGRAM                               -*- shell-script -*-

_PROGRAM() {
    local -a answer candidates
    local directive line word description
    answer=("${(@f)$("${words[1]}" __complete "${(@)words[2,CURRENT]}" 2>/dev/null)}")
    directive="${answer[-1]#:}"
    for line in "${(@)answer[1,-2]}"; do
        word="${line%%$'\t'*}"
        description="${line#*$'\t'}"
        candidates+=("${word//:/\\:}${description:+:$description}")
    done
    if (( ${#candidates} )); then
        _describe 'PROGRAM' candidates
    elif [[ "$directive" == 0 ]]; then
        _files
    fi
}

# The file may be sourced, or found by zsh in its function path.
if [ "$funcstack[1]" = "_PROGRAM" ]; then
    _PROGRAM
fi
