# Installs Debian packages that are missing.  Sourced: deps_install PACKAGE...
# Works as root in a bare container and as a user with sudo.

deps_install() {
    missing=""
    for package in "$@"; do
        dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing="$missing $package"
    done
    [ -z "$missing" ] && return 0
    as_root=""
    if [ "$(id -u)" != 0 ]; then
        command -v sudo >/dev/null || { echo "missing packages, and no sudo:$missing" >&2; return 1; }
        as_root="sudo"
    fi
    echo "installing:$missing"
    # Debian's packages of servers must not start clusters and daemons of their own.
    if [ ! -e /etc/postgresql-common/createcluster.conf ]; then
        $as_root mkdir -p /etc/postgresql-common
        echo 'create_main_cluster = false' | $as_root tee /etc/postgresql-common/createcluster.conf >/dev/null
    fi
    $as_root apt-get update -q >/dev/null || return 1
    $as_root env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 \
        apt-get install -y -q --no-install-recommends $missing >/tmp/moonpost-apt.$$ 2>&1 ||
        { tail -20 /tmp/moonpost-apt.$$ >&2; return 1; }
    rm -f /tmp/moonpost-apt.$$
}

# What the program is built from and runs on.
deps_build="gcc cmake ninja-build pkg-config libc6-dev libevent-dev libssl-dev libpq-dev liblua5.4-dev
 lua-lpeg-dev libpcre2-dev libidn2-dev libunbound-dev nettle-dev postgresql-15"
# What the tests need on top.
deps_test="libcmocka-dev clang clang-format git libclang-rt-14-dev lua-check python3 postgresql-client-15 curl swaks msmtp
 fetchmail isync mutt openssl procps libnet-ssleay-perl libauthen-sasl-perl bsdutils e2fsprogs mount"

# The program does not run as root: it becomes this user.
deps_user() {
    [ "$(id -u)" = 0 ] || return 0
    id moonpost >/dev/null 2>&1 || useradd --system --user-group --no-create-home --shell /usr/sbin/nologin moonpost
}
