# Everything that is done to this repository, one target each. CI calls `make test`.
# `make demo` needs Rust and a C linker; `make test` installs what else it needs (scripts/setup).

CARGO ?= cargo

.PHONY: help demo test nightly lint static bench bench-links bench-scale

help:
	@echo 'make demo    see it work: a service is announced, killed, withdrawn, restarted, stopped'
	@echo 'make test    install what is missing, then lint and every test'
	@echo 'make nightly   hundreds of random misfortunes, each judged by what etcd has written down'
	@echo 'make lint    format, clippy, house rules'
	@echo 'make static  the release binary'
	@echo 'make bench   what the init costs beside its peers, how fast an announcement follows'
	@echo 'make bench-links   the cost of a link beside other forwarders'
	@echo 'make bench-scale   a thousand announcers and one etcd'

# A debug build: it is there in a fraction of the time, and what is shown takes milliseconds either way.
demo:
	@$(CARGO) build --bins --example actor --example demo
	@$(CARGO) run --quiet --example demo

test:
	@scripts/test

# One etcd, then clusters of three; about three quarters of an hour, and most of it is waiting.
nightly:
	@$(CARGO) build --bins --examples
	ENSIGN_SCHEDULES=$${ENSIGN_SCHEDULES:-200} $(CARGO) test --test it history:: -- --nocapture --test-threads 1

lint:
	$(CARGO) fmt --check
	$(CARGO) clippy --all-targets -- -D warnings
	$(CARGO) test --quiet --test it tidy::

static:
	$(CARGO) build --release
	@scripts/built release

bench:
	$(CARGO) bench --bench init
	$(CARGO) bench --bench announce

bench-links:
	$(CARGO) bench --bench links

bench-scale:
	$(CARGO) bench --bench scale
