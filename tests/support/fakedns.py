"""A DNS server for tests: answers from a table, over UDP on a port of its own.

with FakeDNS({('2.0.0.127.list.example', 'A'): ['127.0.0.2'], 'silent.example': None}) as dns: ...
Names that the table does not hold do not exist; a zone whose value is None never answers."""
import socket
import struct
import threading

TYPES = {'A': 1, 'PTR': 12, 'MX': 15, 'TXT': 16, 'AAAA': 28}


def wire_name(name):
    return b''.join(bytes([len(p)]) + p.encode() for p in name.rstrip('.').split('.') if p) + b'\0'


def wire_data(kind, value):
    if kind == 'A':
        return socket.inet_aton(value)
    if kind == 'AAAA':
        return socket.inet_pton(socket.AF_INET6, value)
    if kind == 'TXT':
        return bytes([len(value)]) + value.encode()
    if kind == 'MX':
        return struct.pack('>H', value[0]) + wire_name(value[1])
    return wire_name(value)


class FakeDNS:
    def __init__(self, table):
        self.table = table
        self.asked = []
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.bind(('127.0.0.1', 0))
        self.server = f'127.0.0.1@{self.sock.getsockname()[1]}'
        self.thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *exc):
        self.sock.sendto(b'', self.sock.getsockname())
        self.thread.join(5)
        self.sock.close()

    def _run(self):
        while True:
            data, peer = self.sock.recvfrom(4096)
            if not data:
                return
            reply = self._reply(data)
            if reply:
                self.sock.sendto(reply, peer)

    def _reply(self, data):
        labels, at = [], 12
        while data[at]:
            labels.append(data[at + 1:at + 1 + data[at]].decode('latin1').lower())
            at += data[at] + 1
        name = '.'.join(labels)
        number = struct.unpack('>H', data[at + 1:at + 3])[0]
        kind = {v: k for k, v in TYPES.items()}.get(number, str(number))
        self.asked.append((name, kind))
        for zone, value in self.table.items():
            if isinstance(zone, str) and value is None and (name == zone or name.endswith('.' + zone)):
                return None
        values = self.table.get((name, kind), [])
        known = any(isinstance(k, tuple) and k[0] == name for k in self.table)
        out = b''
        for v in values:
            rd = wire_data(kind, v)
            out += b'\xc0\x0c' + struct.pack('>HHIH', number, 1, 300, len(rd)) + rd
        return data[:2] + struct.pack('>HHHHH', 0x8180 | (0 if known else 3), 1, len(values), 0, 0) + \
            data[12:at + 5] + out
