"""UDP sockets for media, and what the kernel says of the addresses they send to."""

import errno
import socket
import sys
from collections.abc import Iterable, Iterator

RECEIVE_BUFFER_BYTES = 256 * 1024
# Of <linux/in.h> and <linux/in6.h>; the socket module does not name them.
_IP_RECVERR = 11
_IPV6_RECVERR = 25


def bind(address: str, ports: Iterable[int]) -> socket.socket:
    """Return a socket bound to the first of `ports` that is free.

    Bound here and not by the event loop: uvloop raises an OSError without an errno for a port
    that is taken. Raises OSError, EADDRINUSE when all are.
    """
    for port in ports:
        try:
            return _bind(address, port)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
    raise OSError(errno.EADDRINUSE, "all media ports are taken")


def _bind(address: str, port: int) -> socket.socket:
    is_ipv6 = ":" in address
    bound = socket.socket(socket.AF_INET6 if is_ipv6 else socket.AF_INET, socket.SOCK_DGRAM)
    try:
        bound.setblocking(False)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
        if is_ipv6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            bound.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVERR, 1)
        else:
            bound.setsockopt(socket.IPPROTO_IP, _IP_RECVERR, 1)
        bound.bind((address, port))
    except BaseException:
        bound.close()
        raise
    return bound


def refusals(bound: socket.socket) -> Iterator[tuple[str, int]]:
    """Empty the socket's error queue; yield the addresses whose host says "port unreachable".

    Must be called at each error of a socket of bind(): an error left in the queue wakes the event
    loop for ever. Other errors (no route, no such host) come and go with a network and are no sign
    that anybody has left.
    """
    while True:
        try:
            _, ancillary, _, address = bound.recvmsg(
                0, 256, socket.MSG_ERRQUEUE | socket.MSG_DONTWAIT
            )
        except OSError:
            return
        # struct sock_extended_err begins with the errno.
        codes = [int.from_bytes(data[:4], sys.byteorder) for _, _, data in ancillary]
        if errno.ECONNREFUSED in codes:
            yield address[0], address[1]
