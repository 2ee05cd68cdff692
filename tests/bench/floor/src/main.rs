//! Physical floor: a raw TCP relay, one epoll thread, no HTTP at all.
//!   bench-floor --listen-port 7001 --to-port 9001 --workers 4 --how copy|splice
//! copy:   recv into one shared buffer, send at once; a per-connection buffer only on EAGAIN.
//! splice: socket -> pipe -> socket with a pool of pipes taken only while bytes are in flight.
use bench_common::*;
use std::net::Ipv4Addr;
use std::os::fd::RawFd;

struct Side {
    fd: RawFd,
    pend: Vec<u8>,
    pos: usize,
    pipe: Option<(RawFd, RawFd)>,
    inpipe: usize,
    ev: u32,
    eof: bool,
}
struct Pair {
    s: [Side; 2],
    dead: bool,
}
fn side(fd: RawFd) -> Side {
    Side { fd, pend: vec![], pos: 0, pipe: None, inpipe: 0, ev: IN | RDHUP, eof: false }
}

fn main() {
    let a = Args::new();
    raise_nofile();
    let ip: Ipv4Addr = "127.0.0.1".parse().unwrap();
    let (lp, tp, workers) = (a.get("listen-port", 7001u16), a.get("to-port", 9001u16), a.get("workers", 1u16));
    let splice = a.str("how", "copy") == "splice";
    let ep = Epoll::new();
    let l = listen(ip, lp).expect("listen");
    ep.add(l, IN, u64::MAX);
    let mut pairs: Vec<Option<Box<Pair>>> = vec![];
    let mut free: Vec<usize> = vec![];
    let mut pipes: Vec<(RawFd, RawFd)> = vec![];
    let mut evs: Vec<libc::epoll_event> = vec![unsafe { std::mem::zeroed() }; 1024];
    let mut buf = vec![0u8; 256 << 10];
    let mut rr = 0u16;
    let mut reap: Vec<usize> = vec![];
    loop {
        let n = ep.wait(&mut evs, -1);
        for e in &evs[..n] {
            if e.u64 == u64::MAX {
                while let Ok(c) = accept(l) {
                    let Ok(b) = connect(None, ip, tp + rr % workers) else {
                        close(c);
                        continue;
                    };
                    rr = rr.wrapping_add(1);
                    let i = free.pop().unwrap_or_else(|| {
                        pairs.push(None);
                        pairs.len() - 1
                    });
                    pairs[i] = Some(Box::new(Pair { s: [side(c), side(b)], dead: false }));
                    ep.add(c, IN | RDHUP, (i as u64) << 1);
                    ep.add(b, IN | RDHUP, (i as u64) << 1 | 1);
                }
                continue;
            }
            let (i, k) = ((e.u64 >> 1) as usize, (e.u64 & 1) as usize);
            let Some(p) = pairs[i].as_mut() else { continue };
            if p.dead {
                continue;
            }
            let mut ok = e.events & ERR == 0;
            // writable: flush what waits for this side
            if ok && e.events & OUT != 0 {
                ok = drain(p, k, &mut pipes);
            }
            if ok && e.events & (IN | RDHUP | HUP) != 0 {
                let o = 1 - k;
                let busy = p.s[o].pos < p.s[o].pend.len() || p.s[o].inpipe > 0;
                if !busy && !p.s[k].eof {
                    if splice {
                        let (pr, pw) = pipes.pop().unwrap_or_else(|| {
                            let mut f = [0; 2];
                            unsafe {
                                libc::pipe2(f.as_mut_ptr(), libc::O_NONBLOCK | libc::O_CLOEXEC);
                                libc::fcntl(f[1], libc::F_SETPIPE_SZ, 1 << 18);
                            }
                            (f[0], f[1])
                        });
                        let r = unsafe {
                            libc::splice(
                                p.s[k].fd,
                                std::ptr::null_mut(),
                                pw,
                                std::ptr::null_mut(),
                                1 << 18,
                                libc::SPLICE_F_MOVE | libc::SPLICE_F_NONBLOCK,
                            )
                        };
                        if r > 0 {
                            p.s[o].pipe = Some((pr, pw));
                            p.s[o].inpipe = r as usize;
                            ok = drain(p, o, &mut pipes);
                        } else {
                            pipes.push((pr, pw));
                            if r == 0 {
                                p.s[k].eof = true;
                            } else if std::io::Error::last_os_error().kind() != std::io::ErrorKind::WouldBlock {
                                ok = false
                            }
                        }
                    } else {
                        match recv(p.s[k].fd, &mut buf) {
                            Ok(0) => p.s[k].eof = true,
                            Ok(n) => match send(p.s[o].fd, &buf[..n]) {
                                Ok(m) if m == n => {}
                                Ok(m) => {
                                    p.s[o].pend = buf[m..n].to_vec();
                                    p.s[o].pos = 0;
                                }
                                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {
                                    p.s[o].pend = buf[..n].to_vec();
                                    p.s[o].pos = 0;
                                }
                                Err(_) => ok = false,
                            },
                            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {}
                            Err(_) => ok = false,
                        }
                    }
                }
            }
            for k in 0..2 {
                let o = 1 - k;
                if p.s[k].eof && p.s[o].pend.is_empty() && p.s[o].inpipe == 0 {
                    ok = false
                }
            }
            if !ok {
                p.dead = true;
                reap.push(i);
                continue;
            }
            for k in 0..2 {
                let o = 1 - k;
                let mut w = 0;
                if p.s[k].pos < p.s[k].pend.len() || p.s[k].inpipe > 0 {
                    w |= OUT
                }
                if !(p.s[o].pos < p.s[o].pend.len() || p.s[o].inpipe > 0) && !p.s[k].eof {
                    w |= IN | RDHUP
                }
                if w != p.s[k].ev {
                    p.s[k].ev = w;
                    ep.modify(p.s[k].fd, w, (i as u64) << 1 | k as u64);
                }
            }
        }
        for i in reap.drain(..) {
            if let Some(p) = pairs[i].take() {
                for s in &p.s {
                    close(s.fd);
                    if let Some((r, w)) = s.pipe {
                        close(r);
                        close(w);
                    }
                }
                free.push(i);
            }
        }
    }
}
fn drain(p: &mut Pair, k: usize, pipes: &mut Vec<(RawFd, RawFd)>) -> bool {
    let s = &mut p.s[k];
    while s.inpipe > 0 {
        let (pr, pw) = s.pipe.unwrap();
        let r = unsafe {
            libc::splice(
                pr,
                std::ptr::null_mut(),
                s.fd,
                std::ptr::null_mut(),
                s.inpipe,
                libc::SPLICE_F_MOVE | libc::SPLICE_F_NONBLOCK,
            )
        };
        if r > 0 {
            s.inpipe -= r as usize;
            if s.inpipe == 0 {
                pipes.push((pr, pw));
                s.pipe = None;
            }
        } else if std::io::Error::last_os_error().kind() == std::io::ErrorKind::WouldBlock {
            return true;
        } else {
            return false;
        }
    }
    while s.pos < s.pend.len() {
        match send(s.fd, &s.pend[s.pos..]) {
            Ok(n) => s.pos += n,
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => return true,
            Err(_) => return false,
        }
    }
    if s.pos > 0 {
        s.pend = Vec::new();
        s.pos = 0;
    }
    true
}
