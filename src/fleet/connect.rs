//! Connections to Redis: one server, the master that Sentinels name, or a cluster. Every wait has its own deadline,
//! since the library's time-outs do not cover all of them. Left out: what is sent (`shard`).

use std::net::SocketAddr;
use std::time::Duration;

use redis::aio::{AsyncPushSender, ConnectionLike, MultiplexedConnection};
use redis::cluster::ClusterClient;
use redis::cluster_async::ClusterConnection;
use redis::cluster_routing::SingleNodeRoutingInfo;
use redis::io::AsyncDNSResolver;
use redis::sentinel::{Sentinel, SentinelNodeConnectionInfo};
use redis::{
    AsyncConnectionConfig, Client, ClientTlsConfig, Cmd, ConnectionAddr, ConnectionInfo, ErrorKind, IntoConnectionInfo,
    Pipeline, ProtocolVersion, RedisConnectionInfo, RedisError, RedisFuture, RedisResult, TlsCertificates, TlsMode,
    Value,
};
use tokio::time::timeout;

use crate::config::{RedisAddress, RedisPlace, RedisTls};

/// Time limit for a connection: TCP, TLS, HELLO, and for Sentinels the question for the master.
const CONNECT: Duration = Duration::from_secs(2);

/// Time limit for the replies to what was sent together.
const REPLIES: Duration = Duration::from_secs(1);

/// Why Redis cannot be used.
#[derive(Debug)]
pub(crate) enum LinkError {
    /// Nothing came within the time limit.
    Timeout,
    /// The connection failed, or the server refused it.
    Failed(RedisError),
}

impl LinkError {
    /// Word for metrics and states, of a closed set.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::Failed(error) if error.kind() == ErrorKind::AuthenticationFailed => "auth",
            Self::Failed(error) => kind_of(error.code().unwrap_or_default(), error.is_io_error()),
        }
    }

    /// Whether a single server refused a command because it belongs to a cluster.
    pub(crate) fn is_of_cluster(&self) -> bool {
        matches!(self, Self::Failed(error) if error.code() == Some("MOVED"))
    }

    /// The error in words, without credentials.
    pub(crate) fn words(&self) -> String {
        match self {
            Self::Timeout => "no answer in time".to_owned(),
            Self::Failed(error) => error.to_string(),
        }
    }
}

/// Word for an error code of Redis.
pub(crate) fn kind_of(code: &str, is_io: bool) -> &'static str {
    match code {
        "WRONGPASS" | "NOAUTH" | "NOPERM" => "auth",
        "READONLY" => "readonly",
        "OOM" => "oom",
        "LOADING" => "loading",
        "MISCONF" => "misconf",
        "CLUSTERDOWN" | "MASTERDOWN" => "clusterdown",
        _ if is_io => "connection",
        _ => "other",
    }
}

/// An open connection to Redis.
#[derive(Clone)]
pub(crate) enum RedisLink {
    One(MultiplexedConnection),
    Cluster(ClusterConnection),
}

impl RedisLink {
    /// Sends commands together, and waits for all replies. A reply that is an error stands among the others.
    pub(crate) async fn run(&mut self, commands: Vec<Cmd>) -> Result<Vec<Value>, LinkError> {
        match timeout(REPLIES, self.replies(commands)).await {
            Ok(replies) => replies.map_err(LinkError::Failed),
            Err(_) => Err(LinkError::Timeout),
        }
    }

    /// Sends a command to the server of a cluster that is taking over its slot (`ASK`). The replies are that to ASKING
    /// and that to the command.
    pub(crate) async fn run_at(&mut self, (host, port): (String, u16), command: Cmd) -> Result<Vec<Value>, LinkError> {
        let Self::Cluster(connection) = self else { return self.run(vec![command]).await };
        let mut pipeline = Pipeline::with_capacity(2);
        pipeline.cmd("ASKING").add_command(command);
        let replies = connection.route_pipeline(pipeline, 0, 2, SingleNodeRoutingInfo::ByAddress { host, port });
        match timeout(REPLIES, replies).await {
            Ok(replies) => replies.map_err(LinkError::Failed),
            Err(_) => Err(LinkError::Timeout),
        }
    }

    async fn replies(&mut self, commands: Vec<Cmd>) -> RedisResult<Vec<Value>> {
        match self {
            Self::One(connection) => {
                let mut pipeline = Pipeline::with_capacity(commands.len());
                let count = commands.len();
                for command in commands {
                    pipeline.add_command(command);
                }
                connection.req_packed_commands(&pipeline, 0, count).await
            }
            Self::Cluster(connection) => {
                // The keys belong to several servers, which no pipeline spans.
                let mut tasks = tokio::task::JoinSet::new();
                for (place, command) in commands.into_iter().enumerate() {
                    let mut connection = connection.clone();
                    tasks.spawn_local(async move { (place, connection.req_packed_command(&command).await) });
                }
                let mut replies = Vec::new();
                while let Some(done) = tasks.join_next().await {
                    let Ok((place, reply)) = done else { continue };
                    replies.push((place, or_server_error(reply)?));
                }
                replies.sort_by_key(|(place, _)| *place);
                Ok(replies.into_iter().map(|(_, reply)| reply).collect())
            }
        }
    }
}

/// Makes an error that the server answered a reply like any other.
fn or_server_error(reply: RedisResult<Value>) -> RedisResult<Value> {
    match reply {
        Ok(value) => Ok(value),
        Err(error) => {
            let errors = error.clone().into_server_errors();
            let first = errors.as_ref().and_then(|errors| errors.first().map(|(_, error)| error.clone()));
            first.map(Value::ServerError).ok_or(error)
        }
    }
}

/// Opens connections to one address.
#[derive(Clone)]
pub(crate) struct Connector {
    pub(crate) address: RedisAddress,
    pub(crate) tls: RedisTls,
}

impl Connector {
    /// Opens a connection for commands. In a cluster, a command is sent again if its fate is unknown.
    pub(crate) async fn open(&self) -> Result<RedisLink, LinkError> {
        self.open_with(2).await
    }

    /// Opens a connection for commands that must not be executed twice: none is sent again.
    pub(crate) async fn open_without_retries(&self) -> Result<RedisLink, LinkError> {
        self.open_with(0).await
    }

    async fn open_with(&self, retries: u32) -> Result<RedisLink, LinkError> {
        let opening = async {
            match &self.address.place {
                RedisPlace::Cluster(nodes) => {
                    let mut builder = ClusterClient::builder(nodes.iter().map(|node| self.node(node)))
                        .use_protocol(ProtocolVersion::RESP3)
                        .retries(retries)
                        .connection_timeout(REPLIES)
                        .response_timeout(REPLIES);
                    if self.address.tls {
                        builder = builder.tls(TlsMode::Secure).certs(self.certificates());
                    }
                    Ok(RedisLink::Cluster(builder.build()?.get_async_connection().await?))
                }
                _ => {
                    let client = self.client().await?;
                    Ok(RedisLink::One(client.get_multiplexed_async_connection_with_config(&self.settings()).await?))
                }
            }
        };
        match timeout(CONNECT, opening).await {
            Ok(link) => link.map_err(LinkError::Failed),
            Err(_) => Err(LinkError::Timeout),
        }
    }

    /// Opens a connection for subscriptions, whose messages go to `push`.
    pub(crate) async fn subscriber(&self, push: impl AsyncPushSender) -> Result<MultiplexedConnection, LinkError> {
        let opening = async {
            let client = match &self.address.place {
                // Every server of a cluster gets every message.
                RedisPlace::Cluster(nodes) => self.first_of(nodes).await?,
                _ => self.client().await?,
            };
            client.get_multiplexed_async_connection_with_config(&self.settings().set_push_sender(push)).await
        };
        match timeout(CONNECT, opening).await {
            Ok(connection) => connection.map_err(LinkError::Failed),
            Err(_) => Err(LinkError::Timeout),
        }
    }

    async fn client(&self) -> RedisResult<Client> {
        match &self.address.place {
            RedisPlace::Server(host, port) => {
                let host = self.tls.server_name.as_ref().filter(|_| self.address.tls).unwrap_or(host);
                self.one(self.node(&(host.clone(), *port)))
            }
            RedisPlace::Unix(path) => self.one(self.info(ConnectionAddr::Unix(path.clone()))),
            RedisPlace::Cluster(nodes) => self.first_of(nodes).await,
            RedisPlace::Sentinel(nodes, master) => {
                // Sentinels have users of their own, and mostly none; TLS is the same for both.
                let settings = RedisConnectionInfo::default().set_skip_set_lib_name();
                let plain = |node| self.node(node).set_redis_settings(settings.clone());
                let mut sentinel = Sentinel::build(nodes.iter().map(plain).collect())?;
                let mut to_master =
                    SentinelNodeConnectionInfo::default().set_redis_connection_info(self.redis_settings());
                if self.address.tls {
                    to_master = to_master.set_tls_mode(TlsMode::Secure);
                }
                let client = sentinel.async_master_for(master, Some(&to_master)).await?;
                let info = client.get_connection_info().clone();
                let info = info.set_redis_settings(self.redis_settings());
                self.one(info)
            }
        }
    }

    /// The first server of a cluster that answers.
    async fn first_of(&self, nodes: &[(String, u16)]) -> RedisResult<Client> {
        for node in nodes {
            let client = self.one(self.node(node))?;
            if tokio::net::TcpStream::connect((node.0.as_str(), node.1)).await.is_ok() {
                return Ok(client);
            }
        }
        Err(RedisError::from(std::io::Error::other("no server of the cluster answers")))
    }

    fn one(&self, info: ConnectionInfo) -> RedisResult<Client> {
        if self.address.tls { Client::build_with_tls(info, self.certificates()) } else { Client::open(info) }
    }

    fn node(&self, (host, port): &(String, u16)) -> ConnectionInfo {
        let (host, port) = (host.clone(), *port);
        self.info(match self.address.tls {
            true => ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None },
            false => ConnectionAddr::Tcp(host, port),
        })
    }

    #[allow(clippy::expect_used, reason = "an address with its parts never fails to become one")]
    fn info(&self, address: ConnectionAddr) -> ConnectionInfo {
        address.into_connection_info().expect("an address is one").set_redis_settings(self.redis_settings())
    }

    fn redis_settings(&self) -> RedisConnectionInfo {
        let mut settings = RedisConnectionInfo::default()
            .set_protocol(ProtocolVersion::RESP3)
            .set_db(self.address.database)
            // Redis knows CLIENT SETINFO since 7.2 only, so that no line of rights for all versions can grant it.
            .set_skip_set_lib_name();
        if let Some(name) = &self.address.username {
            settings = settings.set_username(name);
        }
        if let Some(password) = &self.address.password {
            settings = settings.set_password(String::from_utf8_lossy(&password.0));
        }
        settings
    }

    fn settings(&self) -> AsyncConnectionConfig {
        let settings = AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(None);
        match (&self.address.place, &self.tls.server_name) {
            (RedisPlace::Server(host, _), Some(_)) if self.address.tls => {
                settings.set_dns_resolver(AnotherHost(host.clone()))
            }
            _ => settings,
        }
    }

    fn certificates(&self) -> TlsCertificates {
        let identity = self.tls.identity.clone();
        TlsCertificates {
            client_tls: identity.map(|(client_cert, client_key)| ClientTlsConfig { client_cert, client_key }),
            root_cert: self.tls.ca.clone(),
        }
    }
}

/// Connects to this host, whatever name the certificate has to show.
struct AnotherHost(String);

impl AsyncDNSResolver for AnotherHost {
    fn resolve<'a, 'b: 'a>(
        &'a self,
        _: &'b str,
        port: u16,
    ) -> RedisFuture<'a, Box<dyn Iterator<Item = SocketAddr> + Send + 'a>> {
        Box::pin(async move {
            let found: Vec<_> = tokio::net::lookup_host((self.0.as_str(), port)).await?.collect();
            Ok(Box::new(found.into_iter()) as Box<dyn Iterator<Item = SocketAddr> + Send>)
        })
    }
}
