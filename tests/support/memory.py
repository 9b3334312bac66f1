"""Memory and connections of the processes of a server."""

from __future__ import annotations

from pathlib import Path
import re


def family(pid: int) -> list[int]:
    """Return the ids of a process and all its descendants."""
    parents = {}
    for path in Path('/proc').glob('[0-9]*/stat'):
        try:
            words = path.read_text().rpartition(')')[2].split()
        except OSError:
            continue
        parents[int(path.parent.name)] = int(words[1])
    found = [pid]
    for parent in found:
        found += [child for child, above in parents.items() if above == parent]
    return found


def reset_peak(pid: int) -> None:
    """Set the peak of memory to the current use."""
    for process in family(pid):
        Path(f'/proc/{process}/clear_refs').write_text('5')


def _status_bytes(pid: int, field: str) -> int:
    text = Path(f'/proc/{pid}/status').read_text()
    match = re.search(rf'^{field}:\s+(\d+) kB$', text, re.MULTILINE)
    assert match is not None
    return int(match[1]) * 1024


def peak_bytes(pid: int) -> int:
    """Return the peak of resident memory since `reset_peak`, of all processes."""
    return sum(_status_bytes(process, 'VmHWM') for process in family(pid))


def resident_bytes(pid: int) -> int:
    """Return the resident memory of all processes."""
    return sum(_status_bytes(process, 'VmRSS') for process in family(pid))


def clients(port: int) -> set[int]:
    """Return the ports of the clients that are connected to a server on loopback.

    Fields as in proc_net(5): the second and third are addresses, the fourth is a state
    (0A listens), the tenth is an inode, which is 0 if no process has the socket.
    """
    lines = Path('/proc/net/tcp').read_text().splitlines()[1:]
    found = (line.split() for line in lines)
    return {
        int(words[2].partition(':')[2], 16)
        for words in found
        if words[1].endswith(f':{port:04X}') and words[3] != '0A' and words[9] != '0'
    }
