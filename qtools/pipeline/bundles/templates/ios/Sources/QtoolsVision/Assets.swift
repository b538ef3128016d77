// Contract and artifact, as the package carries them.

import Foundation
import QtoolsPreparation

public enum Assets {
    /// What contract.json says.
    public static func contract() throws -> Contract {
        guard let file = Bundle.module.url(forResource: "contract", withExtension: "json", subdirectory: "Assets") else {
            throw Missing(name: "contract.json")
        }
        return try Contract(json: Data(contentsOf: file))
    }

    /// The .mlpackage that a contract names.
    public static func artifact(_ contract: Contract) throws -> URL {
        let name = contract.artifact.name
        guard let package = Bundle.module.url(forResource: name, withExtension: nil, subdirectory: "Assets") else {
            throw Missing(name: name)
        }
        return package
    }
}

public struct Missing: Error, CustomStringConvertible {
    public let name: String
    public var description: String { "the package carries no \(name)" }
}
