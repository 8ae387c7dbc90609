"""Load with a memory: threads that send numbered messages and remember which were acknowledged."""
import pathlib
import random
import smtplib
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / 'support'))


class Load:
    """Sends to `users` from `threads` threads until stop(); reconnects for ever."""

    def __init__(self, server, users, threads=4, big_every=25):
        self.server, self.users, self.big_every = server, users, big_every
        self.acknowledged = {}  # token -> users
        self.sent = 0
        self.lock = threading.Lock()
        self.stopping = False
        self.threads = [threading.Thread(target=self._run, args=(i,), daemon=True) for i in range(threads)]

    def start(self):
        [t.start() for t in self.threads]
        return self

    def stop(self):
        self.stopping = True
        [t.join(60) for t in self.threads]
        assert not any(t.is_alive() for t in self.threads), 'a sender hangs'

    def count(self):
        return len(self.acknowledged)

    def _run(self, number):
        rng = random.Random(number)
        smtp, n = None, 0
        while not self.stopping:
            n += 1
            token = f'token-{number}-{n}-{rng.getrandbits(32):08x}'
            to = rng.sample(self.users, rng.choice((1, 1, 1, 2)))
            size = 300_000 if n % self.big_every == 0 else rng.randrange(50, 4000)
            text = f'Subject: {token}\r\n\r\n' + ('x' * 70 + '\r\n') * (size // 72) + 'end\r\n'
            self.sent += 1
            try:
                if smtp is None:
                    smtp = smtplib.SMTP('127.0.0.1', self.server.port('smtp'), local_hostname='load', timeout=30)
                refused = smtp.sendmail('load@elsewhere.test', [f'{u}@example.test' for u in to], text)
                if not refused:
                    with self.lock:
                        self.acknowledged[token] = to
            except (OSError, smtplib.SMTPException):
                try:
                    if smtp:
                        smtp.close()
                except OSError:
                    pass
                smtp = None
                time.sleep(0.02)
        if smtp:
            smtp.close()

    def check(self, fetch):
        """fetch(user) gives the messages of a user; every acknowledged one must be there exactly once."""
        found = {}
        for user in self.users:
            for message in fetch(user):
                token = message.split(b'Subject: ', 1)[1].split(b'\r\n', 1)[0].decode()
                assert message.endswith(b'end\r\n'), f'{token} is not whole'
                found[user, token] = found.get((user, token), 0) + 1
        lost = [(t, u) for t, us in self.acknowledged.items() for u in us if (u, t) not in found]
        twice = [k for k, n in found.items() if n > 1]
        assert not lost, f'{len(lost)} of {len(self.acknowledged)} acknowledged messages are lost: {lost[:5]}'
        assert not twice, f'{len(twice)} messages are there twice: {twice[:5]}'
        return len(found)
