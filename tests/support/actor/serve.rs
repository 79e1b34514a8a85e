//! `actor http`, `echo` and `named`: small real servers, one thread a connection. They log nothing unless asked.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::mpsc::channel;

use crate::args::{self, Args};
use crate::{fail, say, sys};

pub fn http(mut args: Args) -> i32 {
    let delay: u64 = args.option("--term-delay").map_or(0, |ms| args::number(&ms));
    let logged = args.flag("--log");
    let address = address(&mut args);
    let healthy = args.next().map(PathBuf::from);
    // Before any thread exists, so that all of them have it blocked and only `leave_on_term` takes it.
    sys::set_mask(sys::bit(libc::SIGTERM));
    serve(&address, move |client| {
        let _ = answer(client, healthy.as_deref(), logged);
    });
    leave_on_term(delay)
}

pub fn echo(mut args: Args) -> i32 {
    let address = address(&mut args);
    sys::set_mask(sys::bit(libc::SIGTERM));
    serve(&address, |mut client| {
        let Ok(mut out) = client.try_clone() else { return };
        let _ = std::io::copy(&mut client, &mut out);
        let _ = out.shutdown(Shutdown::Write);
    });
    leave_on_term(0)
}

pub fn named(mut args: Args) -> i32 {
    let address = address(&mut args);
    let name = match address.parse::<SocketAddr>().map(|at| at.ip()) {
        Ok(IpAddr::V4(ip)) => ip.octets()[3],
        Ok(IpAddr::V6(_)) | Err(_) => fail(&format!("not an IPv4 address and a port: {address}")),
    };
    sys::set_mask(sys::bit(libc::SIGTERM));
    let listener = TcpListener::bind(&address).unwrap_or_else(|why| fail(&format!("{address}: {why}")));
    let Ok(accepts) = listener.try_clone() else { fail("no descriptor is free") };
    // Each connection has a sender; the receiver hears when the last one is gone.
    let (open, all_closed) = channel::<()>();
    let accepting = std::thread::spawn(move || {
        for client in accepts.incoming().map_while(Result::ok) {
            let open = open.clone();
            std::thread::spawn(move || {
                let _ = answer_by_name(client, name);
                drop(open);
            });
        }
    });
    sys::next_signal(sys::bit(libc::SIGTERM));
    sys::stop_listening(&listener);
    let _ = accepting.join();
    let _ = all_closed.recv();
    0
}

fn answer_by_name(mut client: TcpStream, name: u8) -> std::io::Result<()> {
    client.set_nodelay(true)?;
    let mut said = [name; 9];
    loop {
        client.read_exact(&mut said[1..])?;
        client.write_all(&said)?;
    }
}

/// `PORT` alone means every address; port 0 is chosen by the kernel and printed.
fn address(args: &mut Args) -> String {
    let text = args.next_text().unwrap_or_default();
    if text.contains(':') { text } else { format!("0.0.0.0:{text}") }
}

fn serve(address: &str, each: impl Fn(TcpStream) + Clone + Send + 'static) {
    let listener = TcpListener::bind(address).unwrap_or_else(|why| fail(&format!("{address}: {why}")));
    if address.ends_with(":0") {
        match listener.local_addr() {
            Ok(bound) => say(&format!("listening {bound}")),
            Err(why) => fail(&format!("{address}: {why}")),
        }
    }
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let each = each.clone();
            std::thread::spawn(move || each(client));
        }
    });
}

fn leave_on_term(delay: u64) -> i32 {
    sys::next_signal(sys::bit(libc::SIGTERM));
    sys::sleep_ms(delay);
    sys::exit_now(0)
}

/// Answers the requests of one connection until the client closes it or asks for that.
fn answer(client: TcpStream, healthy: Option<&Path>, logged: bool) -> std::io::Result<()> {
    client.set_nodelay(true)?;
    let mut out = client.try_clone()?;
    let mut input = BufReader::new(client);
    loop {
        let (mut request, mut body, mut close) = (String::new(), 0, false);
        if input.read_line(&mut request)? == 0 {
            return Ok(());
        }
        loop {
            let mut line = String::new();
            input.read_line(&mut line)?;
            let line = line.trim_end().to_ascii_lowercase();
            match line.split_once(':') {
                None => break,
                Some(("content-length", length)) => body = length.trim().parse().unwrap_or(0),
                Some(("connection", value)) => close = value.trim() == "close",
                Some(_) => {}
            }
        }
        std::io::copy(&mut (&mut input).take(body), &mut std::io::sink())?;
        let path = request.split(' ').nth(1).unwrap_or("/");
        let fit = path != "/healthz" || healthy.is_none_or(Path::exists);
        let (status, text) = match fit {
            true => ("200 OK", format!("actor {}\n", sys::pid())),
            false => ("503 Service Unavailable", "not healthy\n".into()),
        };
        if logged {
            say(&format!("{} {status}", request.trim_end()));
        }
        let length = text.len();
        let kind = if close { "close" } else { "keep-alive" };
        let head = format!("HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\n");
        let body = if request.starts_with("HEAD ") { "" } else { &text };
        out.write_all(format!("{head}Connection: {kind}\r\n\r\n{body}").as_bytes())?;
        if close {
            return Ok(());
        }
    }
}
