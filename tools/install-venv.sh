#!/bin/sh
# Debian and Ubuntu keep venv in a package of its own. Install it where we may, else say in one line what to install.
version=$("$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
if command -v apt-get > /dev/null && [ "$(id -u)" = 0 ]; then
    apt-get update -qq && apt-get install -y -qq "python$version-venv" > /dev/null && exit 0
fi
echo "Python's venv module is missing; install it and try again: sudo apt-get install python$version-venv"
exit 1
