# Sends what no honest program would: raw frames, packets to the host's loopback, datagrams to a chosen port.
#   frames DEVICE MAC...                    one frame to each
#   packet DEVICE MAC SOURCE TARGET PORT    one UDP packet by IPv4 in a frame to MAC
#   datagram LENGTH PORT ADDRESS...         one datagram of that UDP length to each
import socket
import struct
import sys


def link(device):
    out = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    out.bind((device, 0))
    return out, out.getsockname()[4]


def mac(text):
    return bytes.fromhex(text.replace(":", ""))


def checksum(header):
    total = sum(struct.unpack(f"!{len(header) // 2}H", header))
    return ~((total >> 16) + (total & 0xFFFF)) & 0xFFFF


what, rest = sys.argv[1], sys.argv[2:]
if what == "frames":
    out, own = link(rest[0])
    for to in rest[1:]:
        out.send(mac(to) + own + b"\x88\xb5" + bytes(50))
elif what == "packet":
    out, own = link(rest[0])
    source, target, port = socket.inet_aton(rest[2]), socket.inet_aton(rest[3]), int(rest[4])
    udp = struct.pack("!4H", port, port, 16, 0) + bytes(8)
    header = struct.pack("!BBHHHBBH", 0x45, 0, 36, 0, 0, 64, 17, 0) + source + target
    header = header[:10] + struct.pack("!H", checksum(header)) + header[12:]
    out.send(mac(rest[1]) + own + b"\x08\x00" + header + udp)
else:
    length, port = int(rest[0]), int(rest[1])
    for to in rest[2:]:
        family = socket.AF_INET6 if ":" in to else socket.AF_INET
        socket.socket(family, socket.SOCK_DGRAM).sendto(bytes(length - 8), (to, port))
