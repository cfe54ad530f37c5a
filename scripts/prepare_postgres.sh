#!/usr/bin/env bash
#
# Prepares a PostgreSQL on this machine (WSL, macOS, Linux), for consumers that share a processed store.
#
#   bash scripts/prepare_postgres.sh                  start a server on 127.0.0.1:5432, if it does not run
#   bash scripts/prepare_postgres.sh --programs       only find or fetch PostgreSQL, for the tests
#   bash scripts/prepare_postgres.sh --stop           stop the server
#
# Options: --port N (default: that of the last start, at first 5432), --quiet (print errors only), --help.
# Data, log and password are in $POSTGRES_HOME, by default ~/postgres (for root: /opt/postgres). The programs of an
# installed PostgreSQL are used; if there is none, they are fetched into that folder with Maven.
# The file store.env there contains the line for .env, with the password.
#
# Exit codes: 0 ready; 2 wrong options; 3 cannot be prepared (the last line on stderr says why).

set -euo pipefail

version=17.6.0 # of the programs from Maven
user=streaming
database=streaming
port=
quiet=
task=start
partial=

say() { [ -n "$quiet" ] || echo "$*"; }
fail() { echo "prepare_postgres: $1" >&2; exit "${2:-3}"; }
trap 'if [ -n "$partial" ]; then rm -rf "$partial"; fi' EXIT

help() { sed -n '3,/^# Exit codes/p' "$0" | sed 's/^# \{0,1\}//'; exit 0; }

while [ $# -gt 0 ]; do
    case $1 in
        --port)
            [ $# -ge 2 ] || fail "$1 needs a value (--help)" 2
            case $2 in '' | *[!0-9]* | ??????*) fail "--port is '$2': give a number from 1024 to 65535" 2 ;; esac
            if [ "$2" -lt 1024 ] || [ "$2" -gt 65535 ]; then fail "--port is '$2': give a number from 1024 to 65535" 2; fi
            port=$2
            shift
            ;;
        --programs) task=programs ;;
        --stop) task=stop ;;
        --quiet) quiet=yes ;;
        --help | -h) help ;;
        *) fail "unknown option '$1' (--help)" 2 ;;
    esac
    shift
done

# PostgreSQL does not run as root. For root another user runs it, who must be able to enter the folder.

as_user=()
default=$HOME/postgres
if [ "$(id -u)" = 0 ]; then
    default=/opt/postgres
    owner=nobody
    if id postgres >/dev/null 2>&1; then owner=postgres; fi
    command -v setpriv >/dev/null 2>&1 || fail "PostgreSQL does not run as root: start this script as another user"
    as_user=(setpriv "--reuid=$(id -u "$owner")" "--regid=$(id -g "$owner")" --clear-groups --)
fi
home=${POSTGRES_HOME:-$default}
case $home in /*) ;; *) home=$PWD/$home ;; esac
data=$home/data

run() { (cd / && "${as_user[@]+"${as_user[@]}"}" "$@"); }

# Programs: those in our folder, else the newest of Debian, else those on the PATH or of Homebrew.

programs=

find_programs() {
    local folder
    for folder in "$home/bin" $(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -t/ -k5 -rn) \
        "$(dirname "$(command -v initdb 2>/dev/null || echo /none/initdb)")" \
        $(ls -d /opt/homebrew/opt/postgresql*/bin /usr/local/opt/postgresql*/bin 2>/dev/null | sort -rV); do
        if [ -x "$folder/postgres" ] && [ -x "$folder/initdb" ] && [ -x "$folder/pg_ctl" ]; then
            programs=$folder
            return 0
        fi
    done
    return 1
}

fetch_programs() {
    local name machine archive
    command -v mvn >/dev/null 2>&1 ||
        fail "no PostgreSQL found: install it (apt install postgresql, brew install postgresql) or install Maven"
    case $(uname -m) in x86_64) machine=amd64 ;; aarch64 | arm64) machine=arm64v8 ;; *) machine=$(uname -m) ;; esac
    case $(uname -s) in Darwin) name=darwin-$machine ;; *) name=linux-$machine ;; esac
    partial=$(mktemp -d "$home/.programs-XXXXXX") || fail "$home cannot be written: set POSTGRES_HOME to another folder"
    say "Fetching PostgreSQL $version with Maven (about 15 MB, once)"
    cat >"$partial/pom.xml" <<POM
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion><groupId>local</groupId><artifactId>postgres</artifactId><version>1</version>
  <dependencies><dependency>
    <groupId>io.zonky.test.postgres</groupId><artifactId>embedded-postgres-binaries-$name</artifactId>
    <version>$version</version>
  </dependency></dependencies>
</project>
POM
    mvn -q -B -f "$partial/pom.xml" dependency:copy-dependencies -DoutputDirectory="$partial" >"$partial/maven.log" 2>&1 ||
        fail "Maven cannot fetch PostgreSQL: $(grep -m 1 ERROR "$partial/maven.log" || tail -n 1 "$partial/maven.log")"
    if command -v unzip >/dev/null 2>&1; then
        (cd "$partial" && unzip -q embedded-postgres-binaries-*.jar)
    else
        (cd "$partial" && jar xf embedded-postgres-binaries-*.jar)
    fi || fail "what Maven fetched cannot be unpacked: install unzip"
    archive=$(ls "$partial"/*.txz) || fail "what Maven fetched contains no PostgreSQL"
    mkdir "$partial/programs"
    if command -v xz >/dev/null 2>&1; then
        tar -xJf "$archive" -C "$partial/programs"
    else
        python3 -m tarfile -e "$archive" "$partial/programs"
    fi || fail "$archive cannot be unpacked: install xz (apt install xz-utils)"
    chmod -R go+rX "$partial/programs"
    for name in "$partial"/programs/*; do
        [ -e "$home/$(basename "$name")" ] || mv "$name" "$home/" # else another run was faster
    done
    rm -rf "$partial"
    partial=
    find_programs || fail "what Maven fetched does not run here"
    say "PostgreSQL $version is in $home/bin"
}

make_home() {
    mkdir -p "$home" 2>/dev/null || fail "$home cannot be created: set POSTGRES_HOME to another folder"
    [ -w "$home" ] || fail "$home cannot be written: set POSTGRES_HOME to another folder"
    run test -x "$home" || fail "user $owner, who runs PostgreSQL for root, cannot enter $home: set POSTGRES_HOME to another folder"
}

running() { [ -d "$data" ] && run "$programs/pg_ctl" status -D "$data" >/dev/null 2>&1; }

create_data() {
    local word
    # Made in a temporary folder and renamed when it is complete.
    partial=$(mktemp -d "$home/.data-XXXXXX")
    word=$(LC_ALL=C tr -dc 'a-zA-Z0-9' </dev/urandom | head -c 32) || true
    [ ${#word} = 32 ] || fail "no random password can be made"
    printf '%s' "$word" >"$partial/word"
    if [ ${#as_user[@]} -gt 0 ]; then chown -R "$owner" "$partial"; fi
    run "$programs/initdb" --pgdata "$partial/data" --username $user --pwfile "$partial/word" --auth scram-sha-256 \
        --encoding UTF8 --locale C >"$home/initdb.log" 2>&1 || fail "$(grep -m 1 error: "$home/initdb.log" || tail -n 1 "$home/initdb.log")"
    rm -f "$home/initdb.log"
    {
        echo "listen_addresses = '127.0.0.1'"
        echo "unix_socket_directories = ''"
        echo "port = ${port:-5432}"
    } >>"$partial/data/postgresql.conf"
    echo "CREATE DATABASE $database" | run "$programs/postgres" --single -D "$partial/data" postgres >/dev/null 2>&1 ||
        fail "the database cannot be created"
    (
        umask 077
        echo "PROCESSED_STORE_URL=postgresql://$user:$word@127.0.0.1:${port:-5432}/$database" >"$home/store.env"
    )
    mv "$partial/data" "$data"
    rm -rf "$partial"
    partial=
}

known_port() { sed -n 's/^port = //p' "$data/postgresql.conf" | tail -n 1; }

start() {
    [ -d "$data" ] || create_data
    if [ -n "$port" ] && [ "$port" != "$(known_port)" ]; then
        if running; then fail "--port is '$port', but the server in $home runs on $(known_port): stop it first (--stop)" 2; fi
        (
            umask 077
            sed "s|127\.0\.0\.1:[0-9]*|127.0.0.1:$port|" "$home/store.env" >"$home/store.new"
        )
        mv "$home/store.new" "$home/store.env"
        echo "port = $port" >>"$data/postgresql.conf" # the last of several lines counts
    fi
    if ! running; then
        run "$programs/pg_ctl" start -w -D "$data" -l "$data/server.log" >/dev/null 2>&1 ||
            fail "PostgreSQL does not start: $(tail -n 6 "$data/server.log" | grep -m 1 -E 'could not bind|FATAL') (all of it: $data/server.log)"
    fi
    say "PostgreSQL is ready on 127.0.0.1:$(known_port) (data in $data)"
    say "use:  cat $home/store.env >> .env"
    say "stop: bash scripts/prepare_postgres.sh --stop"
}

if [ $task = stop ]; then
    if ! find_programs || ! running; then
        say "no PostgreSQL of $home runs"
        exit 0
    fi
    run "$programs/pg_ctl" stop -m fast -D "$data" >/dev/null || fail "PostgreSQL does not stop: see $data/server.log"
    say "stopped"
    exit 0
fi
if ! find_programs; then
    make_home
    fetch_programs
fi
if [ $task = programs ]; then
    say "PostgreSQL is in $programs"
else
    make_home
    start
fi
