# Sourced by test: finds dependencies that no source file of their crate uses.

# CRATE/DEPENDENCY that generated code uses.
used_by_generated_code=" proto/pbjson "

# unused_dependencies CRATE_FOLDER...   Prints a line for each; fails if there is one.
unused_dependencies() {
  local crate name path found=false
  for crate in "$@"; do
    while read -r name; do
      path=${name//-/_}
      [[ $used_by_generated_code != *" $crate/$name "* ]] || continue
      # As a path, in a use, or named in an attribute of serde.
      if ! grep -rqE --include='*.rs' "\b$path::|\buse $path\b|with = \"$path" "$crate"; then
        printf '%s/Cargo.toml: %s is not used; remove it\n' "$crate" "$name" >&2
        found=true
      fi
    done < <(awk '/^\[/ { inside = /dependencies\]$/ } inside && /^[a-z]/ { split($0, key, /[ .=]/); print key[1] }' "$crate/Cargo.toml")
  done
  ! $found
}
