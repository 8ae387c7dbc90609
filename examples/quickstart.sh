#!/bin/sh
# From a bare checkout to mail that flows: installs missing packages, builds, starts a server on the
# embedded database and unprivileged ports, makes a demo domain and users, sends a real message through
# and shows where it went and why, prints the addresses, and serves until Ctrl-C.
#   --once        exits after the demo
#   --deps-only   installs packages and stops
set -eu
cd "$(dirname "$0")/.."
. tests/support/deps.sh

once=no
for word in "$@"; do
    case "$word" in
    --once) once=yes ;;
    --deps-only) deps_install $deps_build curl; exit 0 ;;
    *) echo "usage: sh examples/quickstart.sh [--once | --deps-only]" >&2; exit 2 ;;
    esac
done

base=${MOONPOST_PORT_BASE:-20000}
data=${MOONPOST_DATA:-/tmp/moonpost-demo-$(id -un)}
password=demo-secret

echo "== packages"
deps_install $deps_build curl
deps_user

echo "== build"
cmake -S . -B build -G Ninja -DTESTS=OFF >/dev/null
cmake --build build >build/quickstart.build 2>&1 || { tail -30 build/quickstart.build >&2; exit 1; }
moonpost=$PWD/build/moonpost

echo "== server on $data"
$moonpost serve --data "$data" --listen 127.0.0.1 --port-base "$base" 2>"$PWD/build/quickstart.log" &
server=$!
trap 'kill $server 2>/dev/null; wait $server 2>/dev/null || true' EXIT INT TERM
smtp=$((base + 25)) pop3=$((base + 110)) imap=$((base + 143)) submission=$((base + 587))

tries=0
until curl -s --max-time 2 "telnet://127.0.0.1:$smtp" </dev/null 2>/dev/null | grep -q '^220'; do
    tries=$((tries + 1))
    if [ "$tries" -gt 120 ] || ! kill -0 $server 2>/dev/null; then
        echo "the server did not start:" >&2
        tail -20 "$PWD/build/quickstart.log" >&2
        exit 1
    fi
    sleep 0.5
done

echo "== demo domain and users"
for words in "domain add demo.test" "user add ada --admin --password $password" "user add bob --password $password"; do
    $moonpost $words --data "$data" 2>/dev/null || true # they stay from an earlier run
done
$moonpost user list --data "$data"

echo "== a message from ada to bob, by submission with TLS and sign-in"
stamp=$(date +%s)
{
    printf 'From: Ada <ada@demo.test>\r\nTo: Bob <bob@demo.test>\r\nSubject: Hello from Moonpost %s\r\n\r\n' "$stamp"
    printf 'This message went in by SMTP, was decided on in Lua and stored in PostgreSQL.\r\n'
} >"$PWD/build/quickstart.eml"
curl -sS --ssl-reqd --insecure "smtp://127.0.0.1:$submission/quickstart.test" --user "ada:$password" \
    --mail-from ada@demo.test --mail-rcpt bob@demo.test --upload-file "$PWD/build/quickstart.eml"

echo "== bob fetches it by POP3"
n=$(curl -sS "pop3://127.0.0.1:$pop3" --user "bob:$password" | tail -1 | cut -d' ' -f1)
curl -sS "pop3://127.0.0.1:$pop3/$n" --user "bob:$password" | tee "$PWD/build/quickstart.got"
grep -q "Hello from Moonpost $stamp" "$PWD/build/quickstart.got"
trace=$(sed -n 's/^.*[[:space:]]id \([0-9a-z]*\).*$/\1/p' "$PWD/build/quickstart.got" | head -1)

echo
echo "== why it went there: moonpost message trace $trace"
$moonpost message trace "$trace" --data "$data"

echo
echo "Moonpost is running.  Users ada and bob, password $password, domain demo.test."
echo "  SMTP        127.0.0.1:$smtp      submission 127.0.0.1:$submission (STARTTLS)"
echo "  IMAP        127.0.0.1:$imap     POP3 127.0.0.1:$pop3"
echo "  commands    $moonpost help      (with --data $data)"
echo "  log         $PWD/build/quickstart.log"
[ "$once" = yes ] && exit 0
echo "Ctrl-C stops it."
wait $server
