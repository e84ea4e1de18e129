"""What the daemon and the zygote say to each other.

Over a Unix SOCK_SEQPACKET socket, one JSON object per packet:

    to the zygote:   {"op": "start", "id", "name", "argv", "env", "exec"}  + the log's file descriptor
                     {"op": "kill", "id"}                             SIGKILL to all of the engine's processes
    to the daemon:   {"event": "ready", "vllm", "cannot_fork"}        once, after the imports
                     {"event": "started", "id", "pid"}
                     {"event": "exited", "id", "status"}              all of the engine's processes are gone

`id` is the daemon's number for an engine, `name` its model; `argv` follows `vllm serve`; `env` is added to the
zygote's environment; `exec` asks for a new interpreter; `cannot_fork` is the reason why engines cannot be forked, or
null; `status` is the exit code of the leading process, negative for a signal. Either side takes the other's
closing as its end.
"""

# Bytes. A start packet carries a command line and a few variables: some thousand at most.
MAX_PACKET = 1 << 18
