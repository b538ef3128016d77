#!/bin/sh
# Times the packages in artifacts/ with Core ML on a Mac that has Xcode's command line tools.
#
#   sh run.sh > output.txt      then: qtools bench --parse output.txt
#
# Each run is a process of its own.
set -u
cd "$(dirname "$0")" || exit 2
xcrun swiftc -O -parse-as-library Bench.swift Command.swift -o bench || exit 3
./bench
