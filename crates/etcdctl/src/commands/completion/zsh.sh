#compdef etcdctl
compdef _etcdctl etcdctl

# zsh completion for etcdctl                               -*- shell-script -*-

_etcdctl() {
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
        _describe 'etcdctl' candidates
    elif [[ "$directive" == 0 ]]; then
        _files
    fi
}

# The file may be sourced, or found by zsh in its function path.
if [ "$funcstack[1]" = "_etcdctl" ]; then
    _etcdctl
fi
