# shellcheck shell=bash disable=SC2034,SC2154  # the parts of the set-up share variables, named below
# What the set-up was told when it ran last: the next run, an upgrade say, has to make the same installation without being
# told again. To be sourced, after progress.sh. Reads and sets $engine, $wanted_python, $port, $http_port, $https_port, $with_nginx.

readonly OPTIONS=/opt/vllm-arena/setup-options

# recall_options: the last run's become the defaults
recall_options() {
  local name value
  [ -e "$OPTIONS" ] || return 0
  while IFS='=' read -r name value; do
    case $name=$value in
      engine=gpu | engine=cpu) engine=$value ;;
      with_nginx=true | with_nginx=false) with_nginx=$value ;;
      port=* | http_port=* | https_port=*) printf -v "$name" '%s' "$value" ;;
      python=/*) if [ -x "$value" ]; then wanted_python=$value; fi ;;
    esac
  done <"$OPTIONS"
}

# keep_options: this run's, for the next one
keep_options() {
  put_file "$OPTIONS" 0644 root:root <<END
# What setup_vllm_multi_model.sh was told last, and takes for granted the next time; an option says otherwise.
engine=$engine
port=$port
http_port=$http_port
https_port=$https_port
with_nginx=$with_nginx
python=$wanted_python
END
}
