#!/usr/bin/env bash
#
# Prepares a Kafka broker on this machine (WSL, macOS, Linux), ready to be started.
#
#   bash scripts/prepare_kafka.sh                     one broker on localhost:9092
#   bash scripts/prepare_kafka.sh --from FILE|URL     set Kafka up from an Apache tarball (kafka_2.13-*.tgz)
#   bash scripts/prepare_kafka.sh --cluster 3         three brokers on this machine, with start and stop commands
#
# Options: --quiet (print errors only), --port N (first port of a cluster, default 9092), --help.
# Kafka is in the folder $KAFKA_HOME, by default ~/kafka. If it is missing there, it is set up from --from
# or, if Maven is installed, from the artifacts of org.apache.kafka. Storage is formatted only once, so the
# script can be run as often as you like.
#
# Exit codes: 0 ready; 2 wrong options; 3 cannot be prepared (the last line on stderr says why).

set -euo pipefail

kafka_version=4.3.1 # the last version whose command line tools are published as artifacts too
home=${KAFKA_HOME:-$HOME/kafka}
case $home in /*) ;; *) home=$PWD/$home ;; esac
from=
brokers=1
port=9092
quiet=
partial=

say() { [ -n "$quiet" ] || echo "$*"; }
fail() { echo "prepare_kafka: $1" >&2; exit "${2:-3}"; }
trap 'if [ -n "$partial" ]; then rm -rf "$partial"; fi' EXIT

help() { sed -n '3,/^# Exit codes/p' "$0" | sed 's/^# \{0,1\}//'; exit 0; }

number() { # NAME VALUE LEAST MOST
    case $2 in '' | *[!0-9]* | ??????*) fail "$1 is '$2': give a number from $3 to $4" 2 ;; esac
    if [ "$2" -lt "$3" ] || [ "$2" -gt "$4" ]; then fail "$1 is '$2': give a number from $3 to $4" 2; fi
}

while [ $# -gt 0 ]; do
    case $1 in
        --from | --cluster | --port) [ $# -ge 2 ] || fail "$1 needs a value (--help)" 2 ;;
    esac
    case $1 in
        --from) from=$2; shift ;;
        --cluster) number "$1" "$2" 1 9; brokers=$2; shift ;;
        --port) number "$1" "$2" 1024 65000; port=$2; shift ;;
        --quiet) quiet=yes ;;
        --help | -h) help ;;
        *) fail "unknown option '$1' (--help)" 2 ;;
    esac
    shift
done

java=${JAVA_HOME:+$JAVA_HOME/bin/}java

check_java() {
    local version
    version=$("$java" -version 2>&1 | sed -n 's/.*version "\(1\.\)\{0,1\}\([0-9]*\).*/\2/p' | head -n 1) || true
    if [ -z "$version" ]; then
        fail "Java is missing: install a JDK or JRE 17 or newer (apt install openjdk-17-jre-headless, brew install openjdk@17)"
    elif [ "$version" -lt 17 ]; then
        fail "Java $version is too old: install 17 or newer (apt install openjdk-17-jre-headless, brew install openjdk@17) or set JAVA_HOME"
    fi
}

is_kafka() { [ -x "$1/bin/kafka-server-start.sh" ] && ls "$1"/libs/kafka_*.jar >/dev/null 2>&1; }

# Installation: into a temporary folder beside $home, which is renamed when it is complete.

install_kafka() {
    local parent
    if [ -e "$home" ] && [ -n "$(ls -A "$home" 2>/dev/null)" ]; then
        fail "$home exists but contains no Kafka: set KAFKA_HOME to another folder"
    fi
    parent=$(dirname "$home")
    mkdir -p "$parent" 2>/dev/null || fail "$parent cannot be created: set KAFKA_HOME to another folder"
    partial=$(mktemp -d "$parent/.kafka-XXXXXX" 2>/dev/null) || fail "$parent cannot be written: set KAFKA_HOME to another folder"
    if [ -n "$from" ]; then
        from_tarball
    elif command -v mvn >/dev/null 2>&1; then
        from_maven
    else
        fail "no Kafka in $home: give a downloaded kafka_2.13-*.tgz with --from FILE, or install Maven"
    fi
    is_kafka "$partial" || fail "${from:-Maven} gave no Kafka (bin/kafka-server-start.sh and libs/ are missing)"
    chmod 755 "$partial"
    rmdir "$home" 2>/dev/null || true
    if [ ! -e "$home" ]; then mv "$partial" "$home"; fi # else another run was faster
    say "Kafka is set up in $home"
}

from_tarball() {
    local archive=$from
    case $from in
        http://* | https://* | file://*)
            archive=$partial/download.tgz
            say "Fetching $from"
            if command -v curl >/dev/null 2>&1; then
                curl -fsSL -o "$archive" "$from" || fail "$from cannot be fetched"
            elif command -v wget >/dev/null 2>&1; then
                wget -q -O "$archive" "$from" || fail "$from cannot be fetched (with wget; curl is missing)"
            else
                fail "$from cannot be fetched without curl or wget: install one, or name the downloaded file with --from"
            fi
            ;;
    esac
    [ -f "$archive" ] || fail "--from is '$from': there is no such file" 2
    tar -xzf "$archive" -C "$partial" --strip-components=1 2>/dev/null || fail "$from is not a .tgz archive"
    rm -f "$partial/download.tgz"
}

from_maven() {
    say "Setting up Kafka $kafka_version with Maven (about 45 MB, once)"
    cat >"$partial/pom.xml" <<EOF
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion><groupId>local</groupId><artifactId>kafka</artifactId><version>1</version>
  <dependencies>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>$kafka_version</version></dependency>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka-tools</artifactId><version>$kafka_version</version>
      <exclusions><exclusion><groupId>org.apache.kafka</groupId><artifactId>connect-runtime</artifactId></exclusion></exclusions>
    </dependency>
    <dependency><groupId>org.apache.logging.log4j</groupId><artifactId>log4j-slf4j-impl</artifactId><version>2.25.1</version></dependency>
  </dependencies>
</project>
EOF
    mvn -q -B -f "$partial/pom.xml" dependency:copy-dependencies -DincludeScope=runtime -DoutputDirectory="$partial/libs" \
        >"$partial/maven.log" 2>&1 || fail "Maven cannot fetch Kafka: $(grep -m 1 ERROR "$partial/maven.log" || tail -n 1 "$partial/maven.log")"
    rm -f "$partial/pom.xml" "$partial/maven.log"
    mkdir -p "$partial/bin" "$partial/config"
    write_commands
    write_log_config
    single_config >"$partial/config/server.properties"
}

# The Maven artifacts have no commands: these are those of an Apache tarball that the README uses.

write_commands() {
    cat >"$partial/bin/kafka-run-class.sh" <<'EOF'
#!/usr/bin/env bash
# Runs a main class of the Kafka in this folder.
home=$(cd "$(dirname "$0")/.." && pwd)
# shellcheck disable=SC2086
exec "${JAVA_HOME:+$JAVA_HOME/bin/}java" ${KAFKA_HEAP_OPTS:--Xmx512m} $KAFKA_OPTS "-Dkafka.logs.dir=${LOG_DIR:-$home/logs}" \
    "-Dlog4j2.configurationFile=$home/config/${KAFKA_LOG_CONFIG:-tools-log4j2.properties}" -cp "$home/libs/*" "$@"
EOF
    cat >"$partial/bin/kafka-server-start.sh" <<'EOF'
#!/usr/bin/env bash
# Usage: kafka-server-start.sh [-daemon] FILE.properties [--override NAME=VALUE]...
[ $# -gt 0 ] || { echo "usage: $0 [-daemon] FILE.properties [--override NAME=VALUE]..." >&2; exit 1; }
export KAFKA_HEAP_OPTS=${KAFKA_HEAP_OPTS:--Xmx1G -Xms256m} KAFKA_LOG_CONFIG=log4j2.properties
run=$(dirname "$0")/kafka-run-class.sh
if [ "$1" = -daemon ]; then
    shift
    nohup "$run" kafka.Kafka "$@" >/dev/null 2>&1 </dev/null &
else
    exec "$run" kafka.Kafka "$@"
fi
EOF
    cat >"$partial/bin/kafka-server-stop.sh" <<'EOF'
#!/usr/bin/env bash
# Stops the brokers that run from this folder.
home=$(cd "$(dirname "$0")/.." && pwd)
pids=$(ps axww -o pid= -o command= | awk -v libs="$home/libs/" 'index($0, libs) && / kafka\.Kafka / && !/awk/ {print $1}')
[ -n "$pids" ] || { echo "No kafka server to stop"; exit 1; }
# shellcheck disable=SC2086
kill $pids
EOF
    tool kafka-storage kafka.tools.StorageTool
    tool kafka-topics org.apache.kafka.tools.TopicCommand
    tool kafka-configs kafka.admin.ConfigCommand
    tool kafka-console-producer org.apache.kafka.tools.ConsoleProducer
    tool kafka-console-consumer org.apache.kafka.tools.consumer.ConsoleConsumer
    tool kafka-consumer-groups org.apache.kafka.tools.consumer.group.ConsumerGroupCommand
    tool kafka-transactions org.apache.kafka.tools.TransactionsCommand
    chmod +x "$partial"/bin/*.sh
}

tool() { # NAME CLASS
    # shellcheck disable=SC2016
    printf '#!/usr/bin/env bash\nexec "$(dirname "$0")/kafka-run-class.sh" %s "$@"\n' "$2" >"$partial/bin/$1.sh"
}

write_log_config() {
    local config
    for config in log4j2 tools-log4j2; do
        {
            echo "appender.console.type = Console"
            echo "appender.console.name = console"
            [ $config = log4j2 ] || echo "appender.console.target = SYSTEM_ERR"
            echo "appender.console.layout.type = PatternLayout"
            echo "appender.console.layout.pattern = [%d] %p %m (%c)%n"
            if [ $config = log4j2 ]; then echo "rootLogger.level = INFO"; else echo "rootLogger.level = WARN"; fi
            echo "rootLogger.appenderRef.console.ref = console"
        } >"$partial/config/$config.properties"
    done
}

# Configuration: the combined broker and controller of KRaft.

# By default Kafka acknowledges records that are only in memory: a power cut loses the last seconds.
sync=log.flush.interval.messages=1
# By default it deletes records after a week, which the audit would report as missing.
keep=log.retention.hours=-1

settings() { # ID PORT LOG_DIR VOTERS REPLICATION MIN_ISR
    cat <<EOF
process.roles=broker,controller
node.id=$1
controller.quorum.voters=$4
listeners=PLAINTEXT://localhost:$2,CONTROLLER://localhost:$(($2 + 1))
advertised.listeners=PLAINTEXT://localhost:$2
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT
log.dirs=$3
num.partitions=1
default.replication.factor=$5
min.insync.replicas=$6
offsets.topic.replication.factor=$5
transaction.state.log.replication.factor=$5
transaction.state.log.min.isr=$6
share.coordinator.state.topic.replication.factor=$5
share.coordinator.state.topic.min.isr=$6
$keep
$sync
EOF
}

single_config() { settings 1 9092 "$home/data" 1@localhost:9093 1 1; }

log_dir() { sed -n 's/^log\.dirs=//p' "$1" | tail -n 1; }

cluster_id() { "$home/bin/kafka-storage.sh" random-uuid 2>/dev/null | tail -n 1; }

format() { # CONFIG CLUSTER_ID
    local standalone=
    [ ! -f "$(log_dir "$1")/meta.properties" ] || return 0
    grep -q '^controller\.quorum\.voters=' "$1" || standalone=--standalone
    # shellcheck disable=SC2086
    "$home/bin/kafka-storage.sh" format $standalone -t "$2" -c "$1" >"$home/format.log" 2>&1 ||
        fail "storage cannot be formatted: $(tail -n 1 "$home/format.log") (all of it: $home/format.log)"
    rm -f "$home/format.log"
}

prepare_single() {
    local config=$home/config/kraft/server.properties
    if [ ! -f "$config" ]; then # Kafka 4 keeps it one folder higher; both names work
        mkdir -p "$home/config/kraft"
        cp "$home/config/server.properties" "$config"
    fi
    # The tarballs keep data in /tmp, which is lost at the next boot. Data that already exists is not moved.
    if [ ! -f "$(log_dir "$config")/meta.properties" ]; then
        case $(log_dir "$config") in
            /tmp/*)
                local file
                for file in "$config" "$home/config/server.properties"; do
                    sed -e "s|^log\.dirs=/tmp/kraft.*|log.dirs=$home/data|" -e "s|^${keep%=*}=.*|$keep|" "$file" \
                        >"$file.new" && mv "$file.new" "$file"
                done
                ;;
        esac
        format "$config" "$(cluster_id)"
    fi
    # Also if Kafka was set up before; a value that the user chose stays.
    if [ -w "$config" ] && ! grep -q "^${sync%=*}=" "$config"; then echo "$sync" >>"$config"; fi
    say "Kafka is ready in $home (data in $(log_dir "$config"))"
    say "start: cd $home && bin/kafka-server-start.sh config/kraft/server.properties"
    local all="" # Apache's own command ends all brokers of the user
    grep -q 'run from this folder' "$home/bin/kafka-server-stop.sh" || all=" (every Kafka broker of yours on this machine)"
    say "stop:  $home/bin/kafka-server-stop.sh$all"
}

prepare_cluster() {
    local folder=$home/cluster-$brokers voters='' addresses='' id broker_port minimum id_file
    id_file=$folder/cluster.id
    minimum=$((brokers > 2 ? 2 : 1))
    for ((id = 1; id <= brokers; id++)); do
        broker_port=$((port + (id - 1) * 10))
        voters=$voters${voters:+,}$id@localhost:$((broker_port + 1))
        addresses=$addresses${addresses:+,}localhost:$broker_port
    done
    mkdir -p "$folder"
    [ -s "$id_file" ] || cluster_id >"$id_file"
    for ((id = 1; id <= brokers; id++)); do
        settings "$id" "$((port + (id - 1) * 10))" "$folder/data-$id" "$voters" "$((brokers > 3 ? 3 : brokers))" "$minimum" \
            >"$folder/server-$id.properties"
        format "$folder/server-$id.properties" "$(cat "$id_file")"
    done
    cat >"$folder/start.sh" <<'EOF'
#!/usr/bin/env bash
# Starts the brokers of this folder that do not run: all, or those with the numbers given.
here=$(cd "$(dirname "$0")" && pwd)
cd "$here" || exit 1
for config in server-*.properties; do
    id=${config//[!0-9]/}
    case " ${*:-$id} " in *" $id "*) ;; *) continue ;; esac
    if [ -f "broker-$id.pid" ] && kill -0 "$(cat "broker-$id.pid")" 2>/dev/null; then continue; fi
    KAFKA_HEAP_OPTS=${KAFKA_HEAP_OPTS:--Xmx512m} LOG_DIR=$here/logs-$id nohup ../bin/kafka-server-start.sh "$config" \
        >"broker-$id.log" 2>&1 </dev/null &
    echo $! >"broker-$id.pid"
    echo "broker $id starts (log: $here/broker-$id.log)"
done
EOF
    cat >"$folder/stop.sh" <<'EOF'
#!/usr/bin/env bash
# Stops the brokers of this folder: all, or those with the numbers given. The last one cannot hand over
# its duties; it is killed after 10 s, which costs it a recovery at the next start and no data.
cd "$(dirname "$0")" || exit 1
for signal in TERM KILL; do
    running=
    for file in broker-*.pid; do
        id=${file//[!0-9]/}
        case " ${*:-$id} " in *" $id "*) ;; *) continue ;; esac
        if [ -f "$file" ] && kill -s $signal "$(cat "$file")" 2>/dev/null; then running="$running $file"; else rm -f "$file"; fi
    done
    for ((tenths = 0; tenths < 100; tenths++)); do
        left=
        for file in $running; do
            if kill -0 "$(cat "$file")" 2>/dev/null; then left="$left $file"; else rm -f "$file"; fi
        done
        running=$left
        [ -n "$running" ] || exit 0
        sleep 0.1
    done
done
echo "still running:$running" >&2
exit 1
EOF
    chmod +x "$folder/start.sh" "$folder/stop.sh"
    say "$brokers brokers are ready in $folder"
    say "start: $folder/start.sh"
    say "stop:  $folder/stop.sh"
    say "then:  KAFKA_BROKER_ADDRESS=$addresses"
}

check_java
is_kafka "$home" || install_kafka
if [ "$brokers" -gt 1 ]; then prepare_cluster; else prepare_single; fi
